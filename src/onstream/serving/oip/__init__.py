"""The Open Inference Protocol (KServe v2) over REST (`rest.rest_app`) and gRPC (`rpc.rpc_handlers`)."""
