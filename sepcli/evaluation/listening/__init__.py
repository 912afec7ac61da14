"""Listening tests: `sepcli evaluate --listening-test`.

experiment   excerpts of tracks, what each model makes of them, and a page that asks about it
key          which stimulus is which model's
webmushra    the questions, as a configuration of webMUSHRA
opinions     the answers there -> means with intervals
abx          blind comparisons of two models: which, and the answers -> p-values; the page is player/abx.py's
"""
