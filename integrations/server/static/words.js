// Every text of the page, in both languages.
export const WORDS = {
  en: {
    conversations: "Conversations", new: "New", export: "Export", documents: "Documents", library: "Library",
    upload: "Upload files", drop: "or drop them here", settings: "Settings", temperature: "Temperature",
    length: "Longest answer", question: "Your question", mode: "Answer", "mode-documents": "from documents",
    "mode-quote": "by quoting", "mode-search": "search only", "mode-chat": "chat without documents",
    again: "Again", edit: "Edit", stop: "Stop", send: "Send", close: "Close", theme: "Light / dark",
    token: "This server needs its token", delete: "Delete", nothing: "Nothing fits.", untitled: "New conversation",
    queued: "waiting", reading: "reading", embedding: "indexing", failed: "failed", stopped: "(stopped)",
    source: "Source", other: "中文", line: "line", page: "page",
  },
  zh: {
    conversations: "对话", new: "新对话", export: "导出", documents: "文档", library: "文档库",
    upload: "上传文件", drop: "或拖放到这里", settings: "设置", temperature: "温度",
    length: "最长回答", question: "您的问题", mode: "回答方式", "mode-documents": "根据文档",
    "mode-quote": "摘录原文", "mode-search": "只检索", "mode-chat": "不用文档",
    again: "重新回答", edit: "修改", stop: "停止", send: "发送", close: "关闭", theme: "明 / 暗",
    token: "此服务器需要令牌", delete: "删除", nothing: "没有相符的内容。", untitled: "新对话",
    queued: "等待", reading: "读取", embedding: "建立索引", failed: "失败", stopped: "（已停止）",
    source: "出处", other: "English", line: "行", page: "页",
  },
};
