"""Restoring a video: every frame with its own time, everything else of the file copied, and no flicker added.

import fairweather as fw
from fairweather.video import restore_video
result = restore_video("drive.mp4", "drive.night.mp4", fw.load("night"), infrared="thermal.mp4")
result.frames, result.flicker, result.warnings

What is kept: the times of the frames, also where they are uneven; sound, subtitles, data, pictures and attachments
packet for packet, where the container takes them; rotation, colour tags, captions inside the frames, chapters and
metadata. A turned video is restored upright.

What would flicker is held or smoothed over time: the size of the tiles, what a judge found, the shift of the infrared
picture and the stretch of its raw counts. `Steadied` does the rest, and measures what is left.

Restored frames are kept in segments beside the result, in .NAME.fairweather-parts, until all are there; a second run
goes on after the last whole one, with all that the next frame depends on. A segment begins with a key frame and holds
encoded packets with their exact times.

The encoders, all of them inside PyAV's wheel, with their licences:

    libx264      GPL-2.0-or-later      H.264, the usual one of .mp4, .m4v, .mov and .mkv
    libx265      GPL-2.0-or-later      HEVC, smaller files
    libsvtav1    BSD-3-Clause-Clear    AV1, smaller still
    libvpx-vp9   BSD-3-Clause          VP9, the usual one of .webm
    ffv1         LGPL-2.1-or-later     FFV1, lossless, for .mkv

These licences are of the programs: who passes on x264 or x265 has the duties of the GPL, who passes on a video that
they made has not.
"""

from fairweather.video.formats import CONTAINERS, EXTENSIONS, chosen_encoder, is_video, written_suffix
from fairweather.video.restoring import VideoResult, restore_video

__all__ = [
    "CONTAINERS",
    "EXTENSIONS",
    "VideoResult",
    "chosen_encoder",
    "is_video",
    "restore_video",
    "written_suffix",
]
