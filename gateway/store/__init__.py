"""The record: studies, instances, generations, work items, results and deliveries."""
