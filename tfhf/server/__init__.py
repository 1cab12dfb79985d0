"""`tfhf serve`: SavedModels over TF Serving's own REST and gRPC, where its image cannot run; see `command`."""
