//! The gRPC edge of CSI: decode, validate, guard, one domain call, response.
