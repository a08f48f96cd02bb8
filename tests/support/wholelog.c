// Makes a tool of llama.cpp print what it still has to say before it exits.
//
// The tools print from a thread of their own, which their exit does not wait for (common/log.cpp never deletes the
// log). Where processors are busy, five of six short answers were cut short. Loaded with LD_PRELOAD; both functions are
// C++ functions of libllama-common, and absent from tools that do not use it.

extern void *common_log_main(void) __asm__("_Z15common_log_mainv") __attribute__((weak));
extern void common_log_flush(void *log) __asm__("_Z16common_log_flushP10common_log") __attribute__((weak));

__attribute__((destructor)) static void print_the_rest(void)
{
    if (common_log_main && common_log_flush)
        common_log_flush(common_log_main());
}
