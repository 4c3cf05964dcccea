"""What an iteration decides: policies, proposals and resources, pure."""
