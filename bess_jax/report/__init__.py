"""What came of runs, as one HTML page that stands alone: `python -m bess_jax report`.

`history` reads the course of a run; `content` asks the trained model, with `reliability`, `embedding_map` and
`examples`. `tables` and `figures` (plotly) are what is shown of it, `runs` puts them in order, and `page` into the
template `page.html` (Jinja).
"""
