"""One optimizer step: the module, its loss, its optimizer and schedule, and which weights it trains."""
