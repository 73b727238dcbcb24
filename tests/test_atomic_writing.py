"""Files that are whole or not there; what a killed process leaves is tested with the feature store."""

import threading

import pytest

from keras_showattend.atomic_writing import remove_partial, replacing, replacing_folder


def write_half(writing):
    with writing as new:
        new.write(b"half") if hasattr(new, "write") else (new / "half").write_bytes(b"")
        raise ZeroDivisionError


def test_several_writers_of_one_file_leave_one_of_theirs_whole(tmp_path):
    path, failures, torn = tmp_path / "file", [], []
    contents = [bytes([65 + i]) * 10_000 for i in range(4)]
    path.write_bytes(contents[0])

    def write(content):
        try:
            for _ in range(10):
                with replacing(path) as file:
                    file.write(content[:5000])
                    file.write(content[5000:])
                if path.read_bytes() not in contents:
                    torn.append(content[:1])
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not torn
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_half(replacing(path))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_what_a_killed_writer_left_is_removed(tmp_path):
    # Stopped between opening and renaming: the context is left by no one.
    writing = replacing(tmp_path / "file")
    writing.__enter__().write(b"half")
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "other").write_bytes(b"")
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    path = tmp_path / "folder"
    for text in ("one", "two"):
        with replacing_folder(path) as folder:
            (folder / text).write_text(text)
        assert [p.name for p in path.iterdir()] == [text]
    with pytest.raises(ZeroDivisionError):
        write_half(replacing_folder(path))
    assert [p.name for p in path.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
