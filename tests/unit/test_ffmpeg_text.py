"""What ffmpeg is told and says, as text: lengths, reports, what is in a file, and what of a command nobody should see."""

from __future__ import annotations

from pathlib import Path

import pytest

from procjobs.ffmpeg.arguments import Shown, as_text, expected_length, read_plan
from procjobs.ffmpeg.media import MediaInfo, read_media
from procjobs.ffmpeg.program import _Lines
from procjobs.ffmpeg.reports import Report, read_duration, read_report, read_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("1:30", 90.0), ("01:00:01.5", 3601.5), ("200ms", 0.2), ("-2", -2.0), ("7s", 7.0), ("x", None)],
)  # fmt: skip
def test_times_of_the_command_line_are_read(text, seconds):
    assert seconds == read_seconds(text)


@pytest.mark.parametrize(
    ("arguments", "durations", "length"),
    [
        ("-i a o", [60.0], 60.0),
        ("-i a o", [None], None),
        ("-i a o", [], None),
        ("-ss 10 -i a o", [60.0], 50.0),
        ("-ss 10 -t 5 -i a o", [60.0], 5.0),
        ("-ss 10 -to 30 -i a o", [60.0], 20.0),
        ("-i a -ss 50 -t 20 o", [60.0], 10.0),
        ("-i a -t 1:00:00 o", [60.0], 60.0),
        ("-i a -i b o", [60.0, 90.0], 90.0),
        ("-i a -i b o", [60.0, None], None),
        ("-f lavfi -i x -t 4 o", [None], 4.0),
        ("-f lavfi -t 4 -i x o", [None], 4.0),
        ("-f lavfi -t 4 -i x -i a -t 3 o", [None, 9.0], 3.0),
    ],
)  # fmt: skip
def test_length_of_an_output_follows_from_inputs_and_limits(arguments, durations, length):
    assert length == expected_length(read_plan(arguments.split()), durations)


def test_report_has_what_ffmpeg_knows():
    block = {"frame": "7", "fps": "0.00", "total_size": "N/A", "out_time_us": "2500000", "speed": "8.63x"}
    assert Report(2.5, 10.0, 7, 0.0, 8.63, None) == read_report(block, 10.0)
    assert Report(0.0, None) == read_report({"out_time_us": "N/A", "speed": "N/A"}, None)


def test_output_that_is_longer_than_expected_has_no_expected_length():
    assert (10.1, 10.1) == read_report({"out_time_us": "10100000"}, 10.0)[:2]
    assert (11.0, None) == read_report({"out_time_us": "11000000"}, 10.0)[:2]


def test_duration_is_read_where_ffmpeg_tells_it_and_not_in_a_title():
    assert 3661.5 == read_duration("  Duration: 01:01:01.50, start: 0.000000, bitrate: 708 kb/s")
    assert read_duration("  Duration: N/A, bitrate: N/A") is None
    assert read_duration("                    : Duration: 01:01:01.50, start: 0.000000") is None


def test_description_of_a_file_is_read():
    text = """Input #0, matroska,webm, from 'x':
  Duration: 00:00:06.00, start: 0.000000, bitrate: 708 kb/s
  Stream #0:0: Video: mjpeg (Baseline), yuvj420p(pc), 600x600, 90k tbr, 90k tbn (attached pic)
  Stream #0:1[0x1](und): Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709), 1280x720 [SAR 1:1 DAR 16:9], 29.97 fps
  Stream #0:2(eng): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, stereo, fltp, 69 kb/s (default)
  Stream #0:3(ger): Audio: opus, 48000 Hz, stereo, fltp
Input #1, mp3, from 'y':"""
    expected = MediaInfo("matroska,webm", 6.0, 1280, 720, 29.97, None, "h264", "aac")
    assert expected == read_media(text.splitlines())
    assert read_media(["Error opening input: No such file or directory"]) is None


def test_path_is_a_file_whatever_its_name_is():
    names = ["-y", "concat:a|b", "http:x", "a b.mp4"]
    assert ["./-y", "./concat:a|b", "./http:x", "./a b.mp4"] == [as_text(Path(name)) for name in names]
    assert ["/-y", "-y", "http://x"] == [as_text(Path("/-y")), as_text("-y"), as_text("http://x")]


@pytest.mark.parametrize(
    ("arguments", "text", "shown"),
    [
        ([], "rtmp://me:secret@host/live", "rtmp://***@host/live"),
        ([], "https://host/x?a=1&api_key=secret&b=2", "https://host/x?a=1&api_key=***&b=2"),
        ([], "'ftp://u:p@ss@host/x' and C:/x@y", "'ftp://***@host/x' and C:/x@y"),
        (["-headers", "X-Key: secret\r\nA: b"], "it said X-Key: secret", "it said ***"),
        (["-i", "film.mp4"], "film.mp4: 3 frames", "film.mp4: 3 frames"),
    ],
)
def test_passwords_are_not_shown(arguments, text, shown):
    assert shown == Shown(arguments).text(text)


def test_command_can_be_typed_and_has_no_passwords():
    command = ["ffmpeg", "-headers", "X-Key: secret", "-i", "https://me:secret@host/a b", "o.mp4"]
    assert "ffmpeg -headers '***' -i 'https://***@host/a b' o.mp4" == Shown(command[1:]).command(command)


def test_lines_are_cut_and_addresses_are_left_out():
    lines = _Lines()
    assert ["frame=1"] == lines.feed(b"frame=1\rframe=")
    assert ["frame=2", "[in#0] no \ufffd"] == lines.feed(b"2\n\n[in#0 @ 0x55f0] no \xff\n")
    assert [] == lines.feed(b"x" * 10_000)
    assert ["x" * 4096] == lines.rest()
