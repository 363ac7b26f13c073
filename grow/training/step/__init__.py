"""One optimizer step: the module, its loss, its optimizer and schedule, and the weights that it trains."""
