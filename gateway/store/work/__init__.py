"""Who does what: work items, leases, deliveries and their confirmation, and what is put right."""
