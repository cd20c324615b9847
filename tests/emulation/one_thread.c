// The kernels are compiled without OpenMP here: an emulated call has no threads.
int omp_get_thread_num(void) { return 0; }
