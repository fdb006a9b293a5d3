"""One trial: its settings, its plan, the fit and the files it leaves; and ensembles of trials."""
