//! The node agent: the controller's arm on the node where a volume is attached.
