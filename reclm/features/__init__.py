"""All that the code knows of Feast: publishing features, training frames, online reads.

Marts and model vectors come in; checked offline history, online rows and index-aligned training matrices go out.
What the features are is said in `feature_repo/`; nothing outside this package imports feast.
"""
