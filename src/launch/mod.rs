//! Starting a program with the recorder in it, and staying as its parent.
