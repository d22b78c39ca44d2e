"""The pages on which models run in a reader's browser: the article results/index.html and each run's live.html."""
