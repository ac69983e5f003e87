"""PostgreSQL: each batch is one transaction that writes the rows and the checkpoint."""
