"""Builds in processes of their own, to be killed: `KillableBuilds` starts this file as a program and talks to it.

The program imports the package once and forks for each build. That is safe where no thread is running, hence
KERAS_BACKEND=numpy, which starts none.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import traceback

# What Python reports before it touches a file; os.replace is an `os.rename` too.
_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate"}


class KillableBuilds:
    """One build at a time of the first `images` of `make_examples`, in a process that may be killed."""

    def __init__(self):
        self._program = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "KERAS_BACKEND": "numpy", "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, folder, images, **options):
        """Starts a build.

        Args:
            folder: Path of the store.
            images: Int, how many examples it gets.
            **options: `broken`, the numbers of the examples whose images can't be read, which are then skipped;
                `stop_after`, the number of images after which each further one is waited for without end (`start`
                returns when that many were begun); `die_at`, the number of the operation on a file of the folder
                before which the process is killed; `side`, of the images in pixels; `as_iterator`, whether the
                examples come one by one; and those of `FeatureStore.build`.
        """
        self._ask("start", folder=str(folder), images=images, **options)

    def kill(self):
        """Kills the build as the system would; returns what `finish` does."""
        return self._ask("kill")

    def finish(self):
        """Waits for the end of the build.

        Returns:
            Dict of `exit`, 0 or minus the signal that ended it; `loaded`, the numbers of the images that were begun;
            `peak`, the most memory that it held, in bytes.
        """
        return self._ask("finish")

    def close(self):
        """Ends the program, and the build with it."""
        self._program.stdin.close()
        self._program.wait()
        self._program.stdout.close()

    def _ask(self, command, **arguments):
        self._program.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._program.stdin.flush()
        answer = self._program.stdout.readline()
        if not answer:
            raise RuntimeError(f"The builds ended with {self._program.wait()}.")
        return json.loads(answer)


class _Build:
    """A forked build, seen from the program."""

    def __init__(self, stop_after=None, **arguments):
        self.loaded = []
        # The build writes the number of each image into one pipe, and waits at the other, which the end of this
        # program closes.
        self.reports, report = os.pipe()
        gate, self.gate = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.gate)
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            _run(report, gate, stop_after, **arguments)
        os.close(report)
        os.close(gate)
        while stop_after is not None and len(self.loaded) < stop_after and self._read():
            pass

    def _read(self):
        numbers = os.read(self.reports, 1)
        self.loaded.extend(numbers)
        return numbers

    def end(self):
        while self._read():
            pass
        _, status, usage = os.wait4(self.process, 0)
        os.close(self.reports)
        os.close(self.gate)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"A build ended with {code}.")
        unit = 1 if sys.platform == "darwin" else 1024
        return {"exit": code, "loaded": self.loaded, "peak": usage.ru_maxrss * unit}


def _run(report, gate, stop_after, folder, images, broken=(), die_at=None, side=None, as_iterator=False, **options):
    """Builds, and ends the process."""
    try:
        import pixel_stores

        side = side or pixel_stores.SIDE
        examples = (
            {**example, "image": b"broken"} if example["image_id"] in broken else example
            for example in (_fresh(i, side) if as_iterator else pixel_stores.make_examples(1, i, side)[0]
                            for i in range(images))
        )
        begun = []

        def on_load(image):
            begun.append(None)
            if stop_after is not None and len(begun) > stop_after:
                os.read(gate, 1)
                os._exit(2)
            if (number := pixel_stores.number_of(image)) is not None:
                os.write(report, bytes([number]))

        extractor = pixel_stores.WatchedExtractor(pixel_stores.pixel_extractor(side), on_load)
        if die_at is not None:
            _die_at(die_at, folder)
        if broken:
            options["on_error"] = "skip"
        pixel_stores.build(folder, examples if as_iterator else list(examples), extractor, **options)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
