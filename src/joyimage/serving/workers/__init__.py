"""What runs jobs: preparation, a pipeline in this process, or replicas on Ray."""
