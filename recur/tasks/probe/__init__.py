"""`recur probe`: which lags a cell learns, on rows made for the purpose, and whether its gradient flow foretold it."""
