// moxie_test_main needs one source that uses the precompiled header it offers to the test programs.
