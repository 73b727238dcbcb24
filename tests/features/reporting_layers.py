"""A layer that tells of each process that makes it from a config; workers import this file by its name."""

import os
import pathlib

import keras

# The environment variable with the path of the file that gets the numbers of the processes.
REPORT = "REPORTING_LAYERS_REPORT"


@keras.saving.register_keras_serializable(package="reporting_layers")
class Reporting(keras.layers.Layer):
    def call(self, x):
        return x

    @classmethod
    def from_config(cls, config):
        with open(os.environ[REPORT], "a") as file:
            file.write(f"{os.getpid()}\n")
        return super().from_config(config)


def reported():
    """The numbers of the processes, once for each layer made."""
    return [int(line) for line in pathlib.Path(os.environ[REPORT]).read_text().split()]
