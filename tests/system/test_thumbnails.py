"""examples/thumbnails.py, run as a user runs it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("rich")

SCRIPT = Path(__file__).parents[2] / "examples" / "thumbnails.py"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (400, 200), "red").save(folder / "wide.jpg")
    Image.new("RGB", (90, 300), "blue").save(folder / "tall.webp")
    Image.new("RGBA", (200, 200), (0, 0, 0, 0)).save(folder / "clear.png")
    Image.new("RGB", (30, 20), "green").save(folder / "small.png")
    whole = (folder / "wide.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) - 300])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("of no concern")
    return folder


@pytest.fixture
def run(tmp_path):
    """Run the script to its end, with its pool in a directory of this test, which must be empty at the end."""
    with tempfile.TemporaryDirectory() as runtime:  # tmp_path can be too long for the name of a Unix socket

        def run(*arguments):
            return subprocess.run(
                [sys.executable, SCRIPT, *map(str, arguments)],
                cwd=tmp_path,
                env={**os.environ, "XDG_RUNTIME_DIR": runtime},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        yield run
        assert [] == list(Path(runtime).glob("procjobs/*"))


def test_thumbnails_are_made_and_damaged_pictures_are_named(tmp_path, pictures, run):
    out = tmp_path / "out"
    done = run(pictures, out, "--size", "100", "--workers", "2")
    assert "" == done.stderr
    assert 0 == done.returncode

    sizes = {}
    for path in out.iterdir():
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert {"wide.jpg": (100, 50), "tall.webp": (30, 100), "clear.png": (100, 100), "small.png": (30, 20)} == sizes
    with Image.open(out / "clear.png") as image:
        assert (255, 255, 255) == image.getpixel((50, 50))

    failed = {}
    for line in done.stdout.splitlines():
        if line.startswith("Failed: "):
            _, name, reason = line.split(": ", 2)
            failed[name] = reason
    assert {"truncated.jpg", "text.png", "empty.jpg"} == failed.keys()
    assert "truncated" in failed["truncated.jpg"]
    assert "not a picture that Pillow can read" == failed["text.png"]
    assert "the file is empty" == failed["empty.jpg"]

    summary = done.stdout.splitlines()[-1]
    assert summary.startswith("Made 4 thumbnails in ")
    assert "2 workers" in summary
    assert summary.endswith(str(out))
    assert "\x1b" not in done.stdout


def test_error_that_no_picture_caused_gives_status_1(tmp_path, pictures, run):
    out = tmp_path / "out"
    (out / ".wide.jpg.part").mkdir(parents=True)  # nothing can be written in its place
    done = run(pictures, out)
    assert 1 == done.returncode
    assert "Failed: wide.jpg: IsADirectoryError" in done.stdout
    assert "Made 3 thumbnails" in done.stdout


def test_missing_folder_is_an_error_of_one_line(tmp_path, run):
    done = run(tmp_path / "missing")
    assert (1, "", f"thumbnails: there is no folder {tmp_path / 'missing'}\n") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )


def test_folder_without_pictures_is_an_error_of_one_line(tmp_path, run):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "notes.txt").write_text("of no concern")
    done = run(folder)
    assert (1, "", f"thumbnails: no pictures in {folder}\n") == (done.returncode, done.stdout, done.stderr)


def test_pictures_are_not_replaced_by_their_thumbnails(pictures, run):
    before = (pictures / "wide.jpg").read_bytes()
    done = run(pictures, pictures)
    assert 1 == done.returncode
    assert done.stderr.startswith(f"thumbnails: the thumbnails would replace the pictures in {pictures}")
    assert before == (pictures / "wide.jpg").read_bytes()
