package tcpsignal

// shortage: Plan 9 says in words what went wrong.
func shortage(error) bool { return false }
