"""Run the code as `__main__` of an already confined process and leave with its exit code."""

import atexit
import errno
import linecache
import os
import signal
import sys
import threading
import traceback
import types

_NAME = "main.py"


def prepare(work: str, scratch: str, readable: list[str]) -> None:
    """Environment, module path and working folder of the code."""
    one = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    os.environ.clear()
    os.environ.update({name: "1" for name in one})
    os.environ.update(
        HOME=scratch, TMPDIR=scratch, MPLCONFIGDIR=scratch, MPLBACKEND="Agg", LANG="C.UTF-8", PATH=""
    )
    roots = tuple(os.path.join(path, "") for path in readable)
    sys.path[:] = ["", *(path for path in sys.path if os.path.join(path, "").startswith(roots))]
    sys.argv = [_NAME]
    sys.dont_write_bytecode = True
    os.chdir(work)
    # Python ignores it and would turn the limit into an error that code can swallow.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def run(code: str, note: int) -> int:
    """Execute and return the exit code; `note` is a pipe that names the limit an exception stands for."""
    first = os.getpid()
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=_NAME, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    linecache.cache[_NAME] = (len(code), None, code.splitlines(keepends=True), _NAME)
    try:
        exec(compile(code, _NAME, "exec"), main.__dict__)  # The whole process is the fence around this.
        result = 0
    except SystemExit as leaving:
        result = _exit_code(leaving.code)
    except BaseException as error:
        limit = _limit_behind(error)
        if limit and os.getpid() == first:
            os.write(note, limit.encode())
        _print_without_us(error)
        if limit:
            return 1  # Its threads may sleep for long; the rest of the tree is about to be killed.
        result = 1
    return _finish(result)


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)  # noqa: T201 - what Python itself does with sys.exit("text")
    return 1


def _limit_behind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "memory"
    cannot_fork = isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN
    cannot_thread = isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    return "processes" if cannot_fork or cannot_thread else ""


def _print_without_us(error: BaseException) -> None:
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    sys.stdout.flush()
    traceback.print_exception(type(error), error, frames)
    sys.stderr.flush()


def _finish(result: int) -> int:
    """What the interpreter does at its end: wait for threads, run exit handlers, flush."""
    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        _print_without_us(error)
        return result or 1
    return result
