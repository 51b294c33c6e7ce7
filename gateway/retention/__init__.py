"""What may be removed, when, and how without losing anything; holds, quotas, watermarks."""
