"""A trained model for people: names in, answers, probabilities and classes out.

`predictor` is the door; `names` turns what a user calls things into ids, `table` turns ids back, `writer` streams
answers to files; `calibration` and `classifier` say what scores mean.
"""
