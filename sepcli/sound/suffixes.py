"""Which files of a folder are taken for sound, by their names. No library is imported here."""

from __future__ import annotations

# What a folder scan picks up, lower-case: audio, and video containers that carry audio.
AUDIO_SUFFIXES = frozenset(
    ".wav .wave .bwf .rf64 .w64 .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .caf .au .snd .voc"
    " .m4a .m4b .m4r .aac .mp4 .m4v .mov .3gp .3g2 .mkv .mka .webm .wma .wmv .asf .avi .flv .f4v .ogv .ogx"
    " .spx .mpg .mpeg .vob .ts .mts .m2ts .ac3 .eac3 .dts .thd .mlp .ape .wv .tta .tak .mpc .shn .dsf .dff"
    " .ra .rm .rmvb .amr .oma .mpa .mxf".split()
)
