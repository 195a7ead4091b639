"""Compare models by what people do with their lists: exploration, estimates for a model that was never shown."""
