"""The report of a run: collected, analysed, shown as a page."""
