"""Classical forecasts, backtests, and the table that sets a model beside them."""
