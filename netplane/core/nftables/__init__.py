"""Plan to elements of a fixed program's maps; diff by element; the netlink bytes of elements."""
