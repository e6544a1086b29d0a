"""Make thumbnails of all pictures in a folder, on all cores, with a bar for every running job.

    python examples/thumbnails.py [FOLDER] [OUT] [--size 256] [--workers N] [--pool NAME]

Without FOLDER it first makes sample pictures in ./samples. Two of them are damaged, to show that a failed job costs only its
own picture. It needs Pillow and rich: pip install 'procjobs[examples]'.

The script shows these features of procjobs:

- `pool.submit` takes any function, also a function of the script itself, and returns a Future with an `id`;
- in a job, `procjobs.progress` reports its progress; outside, `pool.jobs("running")` reads it from shared memory;
- an exception of a job arrives as itself; the death of its process arrives as `procjobs.WorkerCrashed`;
- with `--pool NAME` several runs of this script share the workers of one pool;
- `procjobs tune` finds how many workers the pool should have here: docs/tune.md runs it with `make_thumbnail`;
- on Ctrl-C a private pool ends at once with all its processes; in a named pool, the jobs of this run are cancelled.
"""

import argparse
import concurrent.futures
import io
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

import procjobs

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SAMPLE_SIZES = [(4000, 3000), (1920, 1080), (2448, 3264), (5200, 1800), (3000, 3000), (2560, 1600)]

console = Console()


# Functions that workers run ----------------------------------------------------------------------------------


class PictureError(Exception):
    """A file is not a picture, or it is damaged."""


def make_thumbnail(source: Path | str, target: Path | str, size: int = 256) -> None:
    procjobs.progress(0, 5, "decoding")
    source, target = Path(source), Path(target)
    image = read_picture(source)
    procjobs.progress(1, 5, "smoothing")  # grain would flicker in the small picture
    image.thumbnail((4 * size, 4 * size))
    image = image.filter(ImageFilter.MedianFilter(3))
    procjobs.progress(2, 5, "resizing")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    procjobs.progress(3, 5, "sharpening")
    image = image.filter(ImageFilter.UnsharpMask(radius=1, percent=80))
    procjobs.progress(4, 5, "saving")
    save(image, target)
    procjobs.progress(5, 5, "done")


def read_picture(path: Path) -> Image.Image:
    """Return a picture upright, in RGB, with white for transparent parts.

    Raise PictureError with a reason of one line if the file is damaged or not a picture.
    """
    if path.stat().st_size == 0:
        raise PictureError("the file is empty")
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return upright.convert("RGB")
    except UnidentifiedImageError:
        raise PictureError("not a picture that Pillow can read") from None
    except Exception as error:  # a decoder may raise OSError, ValueError, SyntaxError, struct.error... for a damaged file
        raise PictureError(one_line(error)) from error


def save(image: Image.Image, target: Path) -> None:
    """Write a picture completely or not at all, because a job can be killed at any time."""
    encoded = io.BytesIO()
    image.save(encoded, format=Image.registered_extensions()[target.suffix.lower()])
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(encoded.getbuffer())
    part.replace(target)


def make_sample(target: Path, number: int, size: tuple[int, int]) -> None:
    """Make something like a photograph: light that falls off, grain, and a caption."""
    procjobs.progress(0, 4, "light")
    down = Image.linear_gradient("L").resize(size)
    across = Image.linear_gradient("L").rotate(90 if number % 3 else 270).resize(size)
    light = Image.radial_gradient("L").resize(size)
    image = Image.merge("RGB", [across, light, down] if number % 2 else [down, across, light])
    procjobs.progress(1, 4, "grain")
    grain = Image.effect_noise(size, 60).convert("RGB")
    image = Image.blend(image, grain, 0.2)
    procjobs.progress(2, 4, "caption")
    font = ImageFont.load_default(size=size[1] // 6)
    ImageDraw.Draw(image).text((size[0] // 2, size[1] // 2), f"Sample {number}", "white", font, anchor="mm")
    procjobs.progress(3, 4, "saving")
    save(image, target)
    procjobs.progress(4, 4, "done")


# The script itself -------------------------------------------------------------------------------------------


def run_with_bars(
    pool: procjobs.Pool, title: str, function: Callable[..., None], calls: Mapping[str, tuple[Any, ...]]
) -> dict[str, procjobs.Job[None]]:
    """Run `function` with the arguments of each named call; return the ended jobs by the same names."""
    name_column = TextColumn("{task.description}", markup=False)  # a file may be called [red].jpg
    columns = [name_column, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[step]}")]
    jobs: dict[str, procjobs.Job[None]] = {}
    with Progress(*columns, console=console, disable=not console.is_interactive) as bars:
        overall = bars.add_task(title, total=len(calls), step="")
        bar_of_job: dict[str, TaskID] = {}
        try:
            for name, arguments in calls.items():
                jobs[name] = pool.submit(function, *arguments)
            name_of = {job.id: name for name, job in jobs.items()}
            ended: set[concurrent.futures.Future[None]] = set()
            while len(ended) < len(jobs):
                ended, _ = concurrent.futures.wait(jobs.values(), timeout=0.05)
                bars.update(overall, completed=len(ended))
                # The pool may be shared, and then it has jobs of other programs too.
                running = {status.id: status.progress for status in pool.jobs("running") if status.id in name_of}
                for job_id in bar_of_job.keys() - running.keys():
                    bars.remove_task(bar_of_job.pop(job_id))
                for job_id, progress in running.items():
                    if job_id not in bar_of_job:
                        bar_of_job[job_id] = bars.add_task(name_of[job_id], total=None, step="")
                    if progress:
                        done, total, step = progress.value, progress.total, progress.message
                        bars.update(bar_of_job[job_id], completed=done, total=total, step=step)
        finally:
            for job in jobs.values():
                job.cancel()  # has no effect on ended jobs
            for bar in bar_of_job.values():
                bars.remove_task(bar)
    return jobs


def make_samples(pool: procjobs.Pool, folder: Path, count: int = 36) -> None:
    """Make `count` pictures, with a truncated and an empty one; keep existing pictures."""
    folder.mkdir(exist_ok=True)
    wanted = [(folder / f"sample-{n:02}.jpg", n, SAMPLE_SIZES[n % len(SAMPLE_SIZES)]) for n in range(1, count - 1)]
    calls = {target.name: (target, number, size) for target, number, size in wanted if not target.exists()}
    if calls:
        say(f"Making {len(calls)} sample pictures in {folder}")
        for job in run_with_bars(pool, "Samples", make_sample, calls).values():
            job.result()
    whole = wanted[0][0].read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")


def make_thumbnails(pool: procjobs.Pool, folder: Path, out: Path, size: int) -> int:
    """Make the thumbnails, print the results, and return the exit status."""
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not pictures:
        raise FileNotFoundError(f"no pictures in {folder}")
    if out == folder:
        raise FileExistsError(f"the thumbnails would replace the pictures in {folder}; give another output folder")
    out.mkdir(parents=True, exist_ok=True)

    say(f"Making thumbnails of {len(pictures)} pictures in {folder}")
    begun = time.perf_counter()
    calls = {path.name: (path, out / path.name, size) for path in pictures}
    jobs = run_with_bars(pool, "Thumbnails", make_thumbnail, calls)
    seconds = time.perf_counter() - begun

    unreadable, unexpected = {}, {}
    for name, job in jobs.items():
        try:
            job.result()
        except PictureError as error:
            unreadable[name] = str(error)
        except Exception as error:  # noqa: BLE001 - a job may raise anything, and the other jobs continue
            unexpected[name] = one_line(error)
    failed = unreadable | unexpected
    for name, reason in failed.items():
        say(f"Failed: {name}: {reason}")
    made = len(jobs) - len(failed)
    workers = pool.stats().workers
    say(f"Made {made} thumbnails in {seconds:.1f} s ({made / seconds:.1f} pictures/s, {workers} workers) in {out}")
    return 1 if unexpected else 0


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description="Make thumbnails of all pictures in a folder.")
    parser.add_argument("folder", type=Path, nargs="?", help="the pictures (default: samples, made in ./samples)")
    parser.add_argument("out", type=Path, nargs="?", default="thumbnails", help="default: ./thumbnails")
    parser.add_argument("--size", type=positive, default=256, help="the longest side in pixels (default: 256)")
    parser.add_argument("--workers", type=positive, help="how many processes (default: one per CPU)")
    parser.add_argument("--pool", metavar="NAME", help="share the pool of this name (default: a private pool)")
    args = parser.parse_args()
    folder = (args.folder or Path("samples")).resolve()  # absolute: a shared pool's workers may run elsewhere
    try:
        if args.folder and not folder.is_dir():
            raise NotADirectoryError(f"there is no folder {folder}")
        with procjobs.Pool(args.pool, max_workers=args.workers, preload=["PIL.ImageFilter", "PIL.ImageOps"]) as pool:
            if not args.folder:
                make_samples(pool, folder)
            return make_thumbnails(pool, folder, args.out.resolve(), args.size)
    except (OSError, procjobs.ProcjobsError) as error:
        print(f"thumbnails: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("thumbnails: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
