-- Corrections of closed windows: what was said before, and what is true now.
SELECT weir_seq, weir_diff, weir_reason, user_id, win, clicks
FROM clicks_sliding_changes WHERE weir_reason = 'late'
ORDER BY weir_seq LIMIT 6;
