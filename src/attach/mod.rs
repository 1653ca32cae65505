//! From an image that a daemon has open to a block device of the kernel.
