"""What people do: accounts and tokens, orders, reviews, reveals; each act in the audit trail."""
