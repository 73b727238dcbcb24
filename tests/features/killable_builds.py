"""Builds in processes of their own, to be killed: `KillableBuilds` starts this file as a program and talks to it.

The program imports the package once and forks for each build. That is safe where no thread is running, hence
KERAS_BACKEND=numpy, which starts none.
"""

import builtins
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback

# What Python reports before it changes a folder, beside "open"; os.replace is an "os.rename" too.
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}


class KillableBuilds:
    """One build at a time of the first `images` of `make_examples`, in a process that may be killed."""

    def __init__(self):
        self._program = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "KERAS_BACKEND": "numpy"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # The imports are done.

    def start(self, folder, images, **options):
        """Starts a build.

        Args:
            folder: Path of the store.
            images: Int, how many examples it gets.
            **options: `broken`, the numbers of the examples whose images can't be read, which are then skipped;
                `stop_after`, the number of images after which each further one is waited for without end (`start`
                returns when that many were begun); `die_at`, the number of the change of the folder, or of a file in
                it, before which the process is killed; `side`, of the images in pixels; `as_iterator`, whether the
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
        return self._answer()

    def _answer(self):
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
        side = side or pixel_stores.SIDE
        examples = (pixel_stores.make_example(number, side) for number in range(images))
        if not as_iterator:
            examples = list(examples)
        for number in broken:
            examples[number]["image"] = b"broken"
            options["on_error"] = "skip"
        count = itertools.count()

        def on_load(image):
            if stop_after is not None and next(count) >= stop_after:
                os.read(gate, 1)
                os._exit(2)
            if (number := pixel_stores.number_of(image)) is not None:
                os.write(report, bytes([number]))

        extractor = pixel_stores.PixelExtractor(side, on_load)
        if die_at is not None:
            _die_at(die_at, folder)
        pixel_stores.build(folder, examples, extractor, **options)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _die_at(number, folder):
    """Lets the process be killed before its n-th change of a folder or a file in it, counted from 0."""
    count = itertools.count()
    flush, plain_open = os.fsync, builtins.open

    def step():
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        is_change = event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if is_change and str(arguments[0]).startswith(folder):
            step()

    def counted_flush(file):
        step()
        flush(file)

    def counted_open(*arguments, **options):
        # The hook comes before the file is emptied, this after.
        file = plain_open(*arguments, **options)
        if file.writable() and str(arguments[0]).startswith(folder):
            step()
        return file

    sys.addaudithook(hook)
    os.fsync, builtins.open = counted_flush, counted_open


def _serve():
    current = None
    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        answer = {}
        if command == "start":
            current = _Build(**request)
        else:
            if command == "kill":
                os.kill(current.process, signal.SIGKILL)
            answer = current.end()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    # Before the first fork, so that it takes its seconds once; in the tests' own process it would only add weight.
    import pixel_stores

    _serve()
