"""The pages on which models run in a reader's browser: the article page/index.html and each run's live.html."""
