"""The online recommender: a request comes in, ranked items with reasons go out, and a page for people to look at.

    request -> gate -> api / pages -> recommender -> lookup (one read of Feast) and index (the champion in memory)

`reclm serve` starts it. `reloader.py` keeps the index that answers and puts another in its place when the champion, its
candidates or the features change; nothing here trains, and nothing writes to the warehouse or the feature store.
"""
