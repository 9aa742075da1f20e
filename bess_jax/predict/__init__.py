"""A trained model for people: names in; answers, probabilities, classes and embeddings out.

`predictor` is the door, `load` reads the model of a run; `names` turns what a user calls things into ids, `table` turns
ids back, `writer` streams answers to files; `calibration` and `classifier` say what scores mean. `embeddings` are the
rows of a model with names, and `export` writes them to files. `tables` are rows that come from elsewhere: `pykeen`,
`libkge` and `besskge` read them, by `tensors`.
"""
