"""ffmpeg in jobs: with its progress, stopped with its job, and with errors that say what was wrong.

    import procjobs.ffmpeg

    def transcode(source, target):
        procjobs.ffmpeg.run(["-y", "-i", source, "-c:v", "libx264", target])

    pool.submit(transcode, Path("in.mov"), Path("out.mp4"))

Stands on the public names of procjobs and on a program `ffmpeg`: the one on the PATH, or else that of the package
imageio-ffmpeg. See docs/ffmpeg.md.
"""

from procjobs.ffmpeg.arguments import find
from procjobs.ffmpeg.failure import FfmpegError
from procjobs.ffmpeg.media import MediaInfo, probe
from procjobs.ffmpeg.reports import Report
from procjobs.ffmpeg.running import Finished, run

__all__ = ["FfmpegError", "Finished", "MediaInfo", "Report", "find", "probe", "run"]
