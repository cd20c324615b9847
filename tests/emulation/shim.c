// Loaded before Bochs's Python module.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

// The module was built on glibc 2.38, whose headers give these functions other names.

unsigned long long __isoc23_strtoull(const char *text, char **end, int base) { return strtoull(text, end, base); }

int __isoc23_sscanf(const char *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int found = vsscanf(text, format, arguments);
  va_end(arguments);
  return found;
}

// The module always asks for a Cannon Lake, which has no VNNI. Here it gets a Sapphire Rapids.

void *_Z23create_corei3_cnl_cpuidP8BX_CPU_C(void *cpu) {
  void *module = dlopen(getenv("EMULATOR"), RTLD_NOW | RTLD_NOLOAD);
  void (*construct)(void *, void *) = module ? dlsym(module, "_ZN17sapphire_rapids_tC1EP8BX_CPU_C") : NULL;
  if (construct == NULL) {
    fputs("the emulator has no Sapphire Rapids\n", stderr);
    abort();
  }
  void *model = calloc(1, 1 << 16); // its size is not told
  construct(model, cpu);
  return model;
}
