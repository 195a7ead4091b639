"""Recommend items to users, in a service that answers requests over HTTP.

In: a request. Out: ranked items with reasons.

    request -> access_control -> api or explorer -> recommender -> feature_client (one read of Feast)
                                                                -> candidate_index (the champion in memory)

`reclm serve` starts it. `reloading.py` replaces the index when the champion, its candidates or the features change.
This room does not train, and does not write to the warehouse or the feature store. `offline.py` recommends without a
running service.
"""
