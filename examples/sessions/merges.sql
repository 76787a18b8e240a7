-- Late events that fell between two sessions have made them one: both are taken
-- back, and the one that holds everything is given instead.
SELECT c.weir_seq, c.weir_diff, c.weir_reason, c.user_id,
	date_trunc('second', lower(c.visit)) AS from, date_trunc('second', upper(c.visit)) AS to, c.events
FROM sessions_changes AS c JOIN (
	SELECT new.weir_at, new.user_id, new.visit
	FROM sessions_changes AS new JOIN sessions_changes AS old USING (weir_at, user_id)
	WHERE new.weir_diff = 1 AND old.weir_diff = -1 AND old.visit <@ new.visit
	GROUP BY 1, 2, 3 HAVING count(*) > 1
	ORDER BY max(new.weir_seq) LIMIT 2) AS merged
	ON c.weir_at = merged.weir_at AND c.user_id = merged.user_id AND c.visit <@ merged.visit
ORDER BY c.weir_seq;
