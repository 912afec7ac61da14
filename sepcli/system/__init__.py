"""Below all other rooms: threads, processes, files that appear whole, and TOML tables read strictly."""
