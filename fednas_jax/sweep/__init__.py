"""Many searches: learning curves of one run replayed under thousands of elimination policies."""
