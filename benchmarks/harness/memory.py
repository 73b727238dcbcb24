"""The most memory that a step holds at once, on the host or on the device it runs on."""

import contextlib
import ctypes
import gc
import resource
import sys

import keras


def step_memory(step, steps=1, memory=None):
    """Run `step`, which traces and compiles, then `steps` times again, and tell what these hold at most.

    Call it once in a process made for it, when weights, optimizer and batch exist and nothing has run: memory that
    an allocator kept from other work would hide what the step takes.

    Args:
        step: Function without arguments; returns when its work is done.
        steps: Int, how many are measured. Garbage in reference cycles that one leaves counts in the next.
        memory: Object with the methods of `HostMemory`; None finds the one of the backend's device.

    Returns:
        A dict: `before`, `between` and `peak` in bytes, in use before the first step, after it, and at most during
        the others; `peak_is_of_steps`, False where the peak can't be reset and is that of the whole process;
        `memory`, what was read.
    """
    memory = memory or memory_of_device()
    _settle()
    before = memory.in_use()
    step()
    _settle()
    between = memory.in_use()
    forgotten = memory.forget_peak()
    for _ in range(steps):
        step()
    return {
        "before": before,
        "between": between,
        "peak": memory.peak(),
        "peak_is_of_steps": forgotten,
        "memory": memory.name,
    }


def memory_of_device():
    """Where the backend's tensors lie: in the memory of an accelerator, or in the process's own."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return TorchMemory() if torch.cuda.is_available() else HostMemory()
    if backend == "jax":
        import jax

        return HostMemory() if jax.devices()[0].platform == "cpu" else JaxMemory()
    import tensorflow as tf

    return TensorFlowMemory() if tf.config.list_logical_devices("GPU") else HostMemory()


class HostMemory:
    """Resident memory of this process; where there is no `/proc`, the most it has ever been."""

    name = "resident memory"

    def in_use(self):
        """Bytes now."""
        return _status("VmRSS") or _most_ever()

    def forget_peak(self):
        """Let the peak start anew from now; returns whether the system allows that."""
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            return False
        return _status("VmHWM") is not None

    def peak(self):
        """The most bytes since the peak was forgotten, or since the start."""
        return _status("VmHWM") or _most_ever()


class TorchMemory:
    """Tensors of torch on a CUDA device."""

    name = "torch's CUDA tensors"

    def in_use(self):
        import torch

        return torch.cuda.memory_allocated()

    def forget_peak(self):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True

    def peak(self):
        import torch

        return torch.cuda.max_memory_allocated()


class JaxMemory:
    """Buffers of JAX's first device, whose peak can't be reset."""

    name = "JAX's device buffers"

    def in_use(self):
        import jax

        return jax.devices()[0].memory_stats()["bytes_in_use"]

    def forget_peak(self):
        return False

    def peak(self):
        import jax

        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


class TensorFlowMemory:
    """Buffers of TensorFlow's first GPU."""

    name = "TensorFlow's GPU buffers"

    def in_use(self):
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["current"]

    def forget_peak(self):
        import tensorflow as tf

        tf.config.experimental.reset_memory_stats("GPU:0")
        return True

    def peak(self):
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def _settle():
    """Give back what nobody holds any more."""
    gc.collect()
    # glibc has it, others do not.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(field):
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def _most_ever():
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
