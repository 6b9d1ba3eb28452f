"""What tools of several folders use: statistics, and documents with sections that tools write."""
