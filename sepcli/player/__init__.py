"""The player: a page beside a track's stems that plays them in any browser, without a network or a server.

sounds      stems -> MP3 and waveforms, block by block
page        the page of one track, and what stands in it
overview    one page over the pages of many tracks
abx         the page of a blind test
*.html, *.css, *.js    what the browser sees; put together when a page is written
"""

INDEX = "index.html"  # the name of every page
