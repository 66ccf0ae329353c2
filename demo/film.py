"""A film to play: ffmpeg's moving test pattern with a clock and a tick, as HLS and DASH."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "test-pattern"
"""Its `content`, which names its folder too."""

SEGMENT_SECONDS = 2
"""Short segments: the shorter, the sooner a player that lost its stream runs dry."""

_FRAMES_PER_SECOND = 25


def make_film(
    folder: Path, seconds: int, on_progress: Callable[[int], None] = lambda _: None
) -> None:
    """Make the film, unless it is there.

    Args:
        folder: Where to: `film.m3u8` for HLS, `film.mpd` for DASH, and their segments.
        seconds: How long it shall be.
        on_progress: Told how many seconds are made.

    Raises:
        RuntimeError: ffmpeg could not; the message is its own.
    """
    if (folder / "film.m3u8").exists():
        return
    # Made beside it and renamed: one that was interrupted is made anew.
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    clock = "drawtext=text='%{pts\\:hms}':fontsize=56:x=(w-tw)/2:y=h-90"
    keyframes = str(SEGMENT_SECONDS * _FRAMES_PER_SECOND)
    size = f"testsrc2=size=640x360:rate={_FRAMES_PER_SECOND}:duration={seconds}"
    command = [
        *("ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-progress", "pipe:1"),
        *("-f", "lavfi", "-i", size),
        # Browsers pause a film without sound in a tab that is not looked at.
        *("-f", "lavfi", "-i", f"sine=frequency=110:beep_factor=4:duration={seconds}"),
        *("-vf", f"{clock}:fontcolor=white:box=1:boxcolor=black@0.6:boxborderw=12"),
        # Two qualities, so that players have something to change.
        *("-map", "0:v", "-map", "0:v", "-s:v:1", "320x180", "-map", "1:a"),
        *("-af", "volume=0.05", "-c:a", "aac", "-b:a", "32k"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
        *("-crf:v:0", "30", "-crf:v:1", "36"),
        *("-g", keyframes, "-keyint_min", keyframes, "-sc_threshold", "0"),
        # One set of files for both: HLS players read the playlists, DASH players the manifest.
        *("-f", "dash", "-seg_duration", str(SEGMENT_SECONDS), "-hls_playlist", "1"),
        *("-hls_master_name", "film.m3u8", "film.mpd"),
    ]
    with subprocess.Popen(
        command, cwd=unfinished, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ffmpeg:
        assert ffmpeg.stdout is not None  # noqa: S101 - a pipe, as asked for
        assert ffmpeg.stderr is not None  # noqa: S101
        for line in ffmpeg.stdout:
            name, _, value = line.strip().partition("=")
            if name == "out_time_us" and value.isdigit():
                on_progress(int(value) // 1_000_000)
        errors = ffmpeg.stderr.read()
    if ffmpeg.returncode != 0:
        raise RuntimeError(f"ffmpeg could not make the film: {errors.strip()}")
    unfinished.rename(folder)
