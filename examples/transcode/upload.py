"""Uploads, written to the disk as they arrive, for every framework: python-multipart reads the form."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import encoding
import films
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import create_form_parser

import procjobs.ffmpeg


class UploadRefused(Exception):
    """An upload that is not taken: `status` is that of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_film(path: Path) -> None:
    """Refuse what is no film at once. That takes some 20 ms; a job would fail, be tried again, and tell the user later."""
    try:
        info = procjobs.ffmpeg.probe(path, options=encoding.SAFE)
    except procjobs.ffmpeg.FfmpegError:
        info = None
    if info is None or info.video_codec is None or not info.duration:
        raise UploadRefused(415, "this is no film that can be read here")


class Upload:
    """One upload. `write` takes the body of the request piece by piece, `finish` makes a film of it."""

    def __init__(self, content_type: str, content_length: str | None) -> None:
        self._check(int(content_length) if content_length and content_length.isdigit() else 0)
        self._received = 0
        self._fields = {}
        self._file = None
        self.film = films.new_film("", "")
        # The file has a name of its own, in the folder of the film, and goes when it is closed.
        config = {"UPLOAD_DIR": str(self.film.folder), "MAX_MEMORY_FILE_SIZE": 0, "MAX_FIELDS": 10, "MAX_FIELD_SIZE": 1000}
        try:
            headers = {"Content-Type": content_type.encode()}
            self._parser = create_form_parser(headers, self._take_field, self._take_file, config=config)
        except ValueError:
            self.discard()
            raise UploadRefused(400, "this is no form with a film") from None

    def _check(self, size: int) -> None:
        if size > films.MAX_UPLOAD_BYTES:
            raise UploadRefused(413, f"a film may have {films.MAX_UPLOAD_BYTES // 1024**2} MiB, and this one has more")

    def _take_field(self, field) -> None:
        self._fields[field.field_name] = (field.value or b"").decode(errors="replace")

    def _take_file(self, file) -> None:
        if file.field_name == b"film" and self._file is None:
            self._file = file

    def write(self, data: bytes) -> None:
        self._received += len(data)
        self._check(self._received)
        try:
            self._parser.write(data)
        except FormParserError:
            raise UploadRefused(400, "the form is broken") from None

    def finish(self) -> films.Film:
        """Submit the jobs of the film, and return it."""
        try:
            self._parser.finalize()
        except FormParserError:
            raise UploadRefused(400, "the form ends too early") from None
        file, name = self._file, self._fields.get(b"format", "")
        if file is None or not file.size:
            raise UploadRefused(400, "choose a film first")
        if name not in encoding.formats():
            raise UploadRefused(400, "this format is not made here")
        file.file_object.flush()
        os.link(file.actual_file_name, self.film.folder / "source")
        file.close()
        check_film(self.film.folder / "source")
        title = films.clean((file.file_name or b"").decode(errors="replace"))
        self.film = films.begin(self.film._replace(title=title, format=name))
        return self.film

    def discard(self) -> None:
        """Forget an upload that was refused, or has not come to its end."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self.film.folder, ignore_errors=True)
