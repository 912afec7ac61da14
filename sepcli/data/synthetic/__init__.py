"""Songs that nobody wrote, as stems: `sepcli dataset render`.

    compose   a seed -> a song as notes    styles, harmony, bassline, accompany, melody; machine (programmed),
                                           groove (human performances); score and midi: what notes are
    render    a song -> stems on disk      fluidsynth, soundfont, instruments (General MIDI); sounds, synth,
                                           drumkit (our own electronic sounds); mixdown, effects
    vocals    a melody -> sung syllables   voice: what is spoken; sing: how it is sung

Knows nothing of training.
"""
